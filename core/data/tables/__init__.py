"""Tables: CSV files with numbers and words, missing values, scaling and encoding, under scikit-learn's names."""

from .prepare import Pipeline, Preparation
from .steps import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    SimpleImputer,
    StandardScaler,
)
from .table import Table, read_csv

__all__ = [
    "MinMaxScaler",
    "OneHotEncoder",
    "OrdinalEncoder",
    "Pipeline",
    "Preparation",
    "RobustScaler",
    "SimpleImputer",
    "StandardScaler",
    "Table",
    "read_csv",
]
