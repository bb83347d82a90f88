"""The array interface: RSA and other measures as functions of two arrays, and the accumulator for streams of rows."""

from __future__ import annotations

from bertft.similarity.functions import cca as cca
from bertft.similarity.functions import cka as cka
from bertft.similarity.functions import compare as compare
from bertft.similarity.functions import mutual_knn as mutual_knn
from bertft.similarity.functions import procrustes as procrustes
from bertft.similarity.functions import pwcca as pwcca
from bertft.similarity.functions import rsa as rsa
from bertft.similarity.functions import svcca as svcca
from bertft.similarity.pair_moments import PairMoments as PairMoments
from bertft.similarity.plan import Plan as Plan
from bertft.similarity.plan import explain as explain
