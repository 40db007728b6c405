"""Worker hosts: the Celery application, the supervisor, and the processes that own accelerators."""
