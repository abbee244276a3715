"""Pictures and pages of a run, written as files: images, an HTML page, a page of a sweep."""
