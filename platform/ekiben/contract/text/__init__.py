"""What engines for text share: tools, schemas, parameters, and several answers as one.

For engines that generate tokens and are told everything else. An engine that brings an OpenAI layer of its
own needs none of it.
"""
