"""Models as files: an encoder after pre-training, a recogniser after fine-tuning."""
