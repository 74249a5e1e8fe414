"""The golden vectors' tool: runs them against testees, checks them, adds to them."""
