"""The spine: a job's states and one file per arrow between them."""
