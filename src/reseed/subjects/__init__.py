"""The networks studied, and the text that goes through them."""
