"""The study: methods and variants compared over seeds, by the probe of their encoders and by their word error rates."""
