"""From benchmark rows to answers: adapters to lmms-eval and VLMEvalKit, and what they share."""
