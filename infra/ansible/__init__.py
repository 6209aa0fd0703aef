"""The roles that make a host a site, on the lab and on real machines alike, and the process that runs them."""
