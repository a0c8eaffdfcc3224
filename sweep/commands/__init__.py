"""One module a command: from parsed options to a finished result. Nothing here prints."""
