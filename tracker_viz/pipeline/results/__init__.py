"""Put more than its film into a run: files, tables and notes, the page that plays several
films in step, and what ``verify`` found."""
