"""What is in the demo: a whole site (issuer, FirecREST, proxy, Hub) on one machine's loopback.

Nothing here imports the product, so that the two cannot share a misunderstanding; the Hub that
:mod:`firecrestspawner.demo.hub` starts loads the product through its entry points, as any site
would. Insecure by design: for trying out and for tests, never for a service.
"""
