"""The shapes of the API's answers, one file an area. Pages draw the same objects: a page never knows more than the API says."""
