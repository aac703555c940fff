from . import embedding as embedding
from . import isa as isa
from . import textcnn as textcnn
from . import text as text
