"""The negative control: two servers of our own, an honest and a sabotaged failover, judged by the drill's own checker."""
