"""E-mail: a queue in the database, a worker thread that sends it, and the kinds of e-mail."""
