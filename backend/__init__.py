"""Finetune Studio: the web application, its shared core, its embedded services and its command line."""
