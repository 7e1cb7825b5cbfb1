"""What each page shows: from the query of an address to the facts of its template."""
