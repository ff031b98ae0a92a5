# A package for cimport: `from slidedot cimport c_api` declares what there is for Cython and C.
