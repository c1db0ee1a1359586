"""Turn settings into objects: models, published weights, stored runs, data and what watches a run. No mathematics."""
