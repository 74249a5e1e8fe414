"""One module per kind of job; each drives its part of the conversation with the daemon."""
