"""The processes of the fleet: started, forked, watched, adopted, ended."""
