"A trained model for those who use it. Nothing is imported here: an exported model is read without torch."
