from . import isa as isa
from . import textcnn as textcnn
