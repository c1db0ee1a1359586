"""Train noise predictors on captioned pictures: encode once, corrupt, predict the noise, and run it backwards."""
