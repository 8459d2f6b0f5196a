"""pytest-llmparity: is one LLM inference engine as good as another?"""
