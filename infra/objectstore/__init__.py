"""S3 stores: the contract, its implementations (boto3, memory), and admission by probe."""
