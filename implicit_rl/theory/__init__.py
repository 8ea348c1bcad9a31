"""The paper's two theory models: kernel regression and deep linear networks."""
