"""What learns: replay, and double DQN (imported from `londi.learners.dqn`, needs torch)."""
