"""Records turned into something to read. How a figure was made is not known here."""
