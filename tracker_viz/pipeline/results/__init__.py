"""What is put into a run beside its film: files, tables and notes, the page that plays several
films in step, and what ``verify`` found."""
