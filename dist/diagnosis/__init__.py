"""What a job can say of itself: who waits for whom, what each rank did last, who is slow, whether replicas are equal."""
