"""PostgreSQL under Patroni: who writes, who follows, and what a fresh cluster needs."""
