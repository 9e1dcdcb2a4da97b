"""What operators ask of an installation, at its database and its broker: no API is needed."""
