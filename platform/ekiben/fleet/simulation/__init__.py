"""Recorded traffic against the policies: what would each have cost in waiting and in memory?

The policies are those of `fleet.policy`, called as the fleet calls them; here are only the world around
them and the rules they are compared with.
"""
