"""The sidecar: doors through which databases and programs reach the models."""
