from learner_data import data as data
from learner_data import root as root
