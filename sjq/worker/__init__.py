"""The daemon: takes jobs from a broker, has an executor run them, settles them."""
