"""The web application: pages, API, live stream."""
