"""A file of jobs in, a file of results out; can be interrupted at any moment.

Each submit carries an Idempotency-Key made of the batch's id (kept beside the output, on disk
before the first submit) and the line's number. So a line that was submitted before the program
was killed is not submitted again by the next run: the API answers with the job it has.
"""
