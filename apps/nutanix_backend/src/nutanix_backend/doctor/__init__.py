"""`podheitor-nutanix-backend doctor`: is this installation ready; if not, what is to be done."""
