"""Any torch module as a subject: what passes its sites, how that is laid out, who makes it."""
