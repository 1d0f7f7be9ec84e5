"""Claims of papers as statements that results support or contradict; `claims.yaml` declares them."""
