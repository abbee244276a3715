"""A stand-in for the W&B service, for the real ``wandb`` client over loopback.

    with WandbServer() as server:
        environment = server.environment(tmp_path)      # point a client at it, and at nothing else
        ...
        server.run("me/proj/abc").history               # what the service holds
        server.stop(); server.start()                   # an outage: same port, nothing forgotten

It answers the operations that the client is known to need, refuses every other
(``server.refused``), and keeps and gives back bytes as they came. What it can not know is what the
real service makes of them: see the live test for that.
"""

from wandb_server.httpd import ENTITY, WandbServer

__all__ = ["ENTITY", "WandbServer"]
