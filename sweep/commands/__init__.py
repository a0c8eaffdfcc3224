"""One module per command, from parsed options to a finished result. Nothing here prints."""
