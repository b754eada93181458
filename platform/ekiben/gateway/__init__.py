"""The ASGI app in front: routes, auth, limits, proxying, `/api` and `/metrics`.

It knows the fleet by `FleetPort` alone, opens the bodies of requests only as far as routing needs, and
sends everything else on as it came.
"""
