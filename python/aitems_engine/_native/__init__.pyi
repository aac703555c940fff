from . import ann as ann
from . import batch as batch
from . import category as category
from . import embedding as embedding
from . import isa as isa
from . import rerank as rerank
from . import text as text
from . import textcnn as textcnn
