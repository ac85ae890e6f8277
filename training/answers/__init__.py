"""From a run and anybody's files to answers: real, fake, unsure or no face, and why."""
