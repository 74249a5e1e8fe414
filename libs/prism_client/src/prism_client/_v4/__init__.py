"""The v4 REST API of Prism Central. Nothing outside select.py may name this folder."""
