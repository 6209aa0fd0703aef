"""Stock locust as most people write it, to be run beside the open-loop engine (`zaibei surge oracle`):
ten users, each asking at its own pace, each silent while it waits. Its percentiles are the comparison.
"""

import os

from locust import FastHttpUser, constant_throughput, task


class Stock(FastHttpUser):
    wait_time = constant_throughput(float(os.environ.get("ZAIBEI_STOCK_RPS", "10")))

    @task
    def ask(self):
        self.client.get("/ok")
