"""What every blueprint needs of HTTP: htmx, security, login, preferences, translations, assets, templates, forms."""
