"""What only the v3 REST API offers. Nothing outside select.py may name this folder."""
