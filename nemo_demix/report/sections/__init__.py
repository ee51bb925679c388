"""One module a group of questions; each section is worked out from the records and knows nothing of HTML."""
